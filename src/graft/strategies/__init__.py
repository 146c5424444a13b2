"""What is trained when: rules, phases, the engine that applies them, learning-rate schedules."""
