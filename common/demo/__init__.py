"""The demo, `python -m common.demo`: data written for this project, a local model server, rules to answer."""
