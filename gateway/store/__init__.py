"""Where state lives: tables, migrations, and the one thread that writes."""
