"Choose layers and remove them, in memory or on disk."
