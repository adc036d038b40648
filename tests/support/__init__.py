"Things that several test files share. A file here belongs to one room, and its name says which."
