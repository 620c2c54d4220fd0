"""What is mapped: scenes in files, folders and on the network, and scenes made of several."""
