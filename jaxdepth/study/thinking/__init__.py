"""Does a thought before the verdict help: arms tuned alike, compared on the same prompts."""
