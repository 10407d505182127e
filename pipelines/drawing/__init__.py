"""Texts and masks drawn into pictures, for reports and for exports."""
