"""The command line: `bebert`, and the jobs that do the same as Ray jobs."""
