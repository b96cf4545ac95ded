"""One file a section of the page; the table of them is `regraft.reporting.SECTIONS`."""
