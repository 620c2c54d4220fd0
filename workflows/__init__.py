"""What a user does, one module a job; joins the networks to the tile pipeline."""
