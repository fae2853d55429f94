"""Pages for people: rendered here, without scripts, behind a sign-in of their own."""
