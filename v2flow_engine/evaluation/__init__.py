"""Do the pictures show what was asked, and what is lost on the way: judged against true pictures."""
