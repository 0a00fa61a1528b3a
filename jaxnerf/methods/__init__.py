"""What trains: from a configuration and a scene to a Trainer and the state before its first step."""
