"""Client authentication and billing for a FastAPI gateway.

The house is built in layers. A module imports from its own layer or from one above it in this list,
never from one below; `tests/test_map.py` reads this list and checks every import.

    words       errors records settings
    rules       plans keys cycles
"""
