"""The instruction table: read, checked and divided into units."""
