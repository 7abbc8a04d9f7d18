"""Making a model express an emotion, and measuring how well it does and at what price."""
