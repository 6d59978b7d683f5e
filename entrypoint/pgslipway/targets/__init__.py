"""What a run over many schemas or databases loads."""
