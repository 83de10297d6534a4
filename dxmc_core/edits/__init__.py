"""What people have corrected, as data: the model of an edit, the file that edits lie in, and how they are applied."""
