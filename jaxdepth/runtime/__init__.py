"""What a long run needs of its machine: processes, preemption, profiles, progress."""
