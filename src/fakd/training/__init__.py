"""Training: what a step minimises, how the steps are scheduled, and the folder they fill."""
