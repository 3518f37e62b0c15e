"""What the five stages share: files (io), command line (stage), settings (config), model calls (llm), PR records,
reading a reply (reply), the leak audit (leaks), and the demo with its local server (demo/)."""
