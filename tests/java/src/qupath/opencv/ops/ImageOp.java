package qupath.opencv.ops;

/** Stands in for QuPath's interface. */
public interface ImageOp {}
