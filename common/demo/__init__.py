"""The demo, `python -m common.demo`: its own data, a local model server, rules to answer by."""
