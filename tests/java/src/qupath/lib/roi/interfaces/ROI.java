package qupath.lib.roi.interfaces;

/** Stands in for QuPath's interface: a rectangle. */
public final class ROI {
    private final double[] bounds;

    public ROI(double x, double y, double width, double height) {
        bounds = new double[] {x, y, width, height};
    }

    public double getBoundsX() {
        return bounds[0];
    }

    public double getBoundsY() {
        return bounds[1];
    }

    public double getBoundsWidth() {
        return bounds[2];
    }

    public double getBoundsHeight() {
        return bounds[3];
    }

    public int getZ() {
        return 2;
    }

    public int getT() {
        return 1;
    }
}
