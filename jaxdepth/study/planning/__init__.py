"""What a study costs: measured here, or planned for devices that are not there."""
