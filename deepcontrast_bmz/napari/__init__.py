"""The napari plugin: a widget with the dial as a slider, files, sample data, the report."""
