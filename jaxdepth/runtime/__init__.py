"""What a long run needs from its machine: processes, preemption, profiles, progress."""
