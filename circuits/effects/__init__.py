"""What components add along emotion directions: each quantity with the record that holds it."""
