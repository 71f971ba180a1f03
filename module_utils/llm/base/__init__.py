"""What every room uses: files, names, time limits, texts. Standard library only; imports nothing of the rooms above."""
