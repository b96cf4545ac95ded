"""One file a reader of events; the table of them is `regraft.reporting.EVENT_READERS`."""
