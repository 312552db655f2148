package qupath.lib.images.servers;

/** Stands in for QuPath's class: pixels of 0.4 x 0.4 micrometers. */
public final class PixelCalibration {
    public double getPixelWidthMicrons() {
        return 0.4;
    }
}
