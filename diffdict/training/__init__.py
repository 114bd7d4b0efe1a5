"""What trainings share: schedules, averages, what is no number, what each of several keeps."""
