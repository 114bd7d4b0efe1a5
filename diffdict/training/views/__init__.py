"""What trainings of an encoder by two views of each picture share: SimCLR, SimSiam."""
