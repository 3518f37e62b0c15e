"""The demo: data written for this project, a local model server, rules that answer; run by `python -m common.demo`."""
