"""Learning-rate schedules beside the usual three, one file each."""
