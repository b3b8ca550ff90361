"""Generated video-QA clips."""
