"""An A/B: its plan, its sessions, their processes."""
