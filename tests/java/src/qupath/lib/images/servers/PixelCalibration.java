package qupath.lib.images.servers;

/** Stands in for QuPath's class. */
public class PixelCalibration {
    private final double width;
    private final double height;

    private PixelCalibration(double width, double height) {
        this.width = width;
        this.height = height;
    }

    public double getPixelWidthMicrons() {
        return width;
    }

    public double getPixelHeightMicrons() {
        return height;
    }

    /** Stands in for QuPath's class. */
    public static class Builder {
        private double width = Double.NaN;
        private double height = Double.NaN;

        public Builder() {}

        public Builder pixelSizeMicrons(Number pixelWidth, Number pixelHeight) {
            width = pixelWidth.doubleValue();
            height = pixelHeight.doubleValue();
            return this;
        }

        public PixelCalibration build() {
            return new PixelCalibration(width, height);
        }
    }
}
