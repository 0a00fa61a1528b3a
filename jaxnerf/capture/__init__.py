"""From photographs or a video to a scene (frames, structure from motion); and inspection of scenes."""
