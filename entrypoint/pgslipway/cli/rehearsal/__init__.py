"""`rehearse` on a server that is thrown away; the image does not have these modules."""
