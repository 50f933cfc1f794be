"""Opens models and graphs wherever they are (registry, file, folder) and measures them: for serving and for batches."""
