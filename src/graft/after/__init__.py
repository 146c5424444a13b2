"""What is done with a network once its training on the target is over. Nothing here looks at test labels to decide."""
