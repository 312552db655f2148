package qupath.lib.regions;

/** Stands in for QuPath's class. */
public final class RegionRequest {
    public final String path;
    public final int x;
    public final int y;
    public final int width;
    public final int height;

    private RegionRequest(String path, int x, int y, int width, int height) {
        this.path = path;
        this.x = x;
        this.y = y;
        this.width = width;
        this.height = height;
    }

    public static RegionRequest createInstance(
            String path, double downsample, int x, int y, int width, int height, int z, int t) {
        if (downsample != 1) {
            throw new IllegalArgumentException("full resolution is expected");
        }
        return new RegionRequest(path, x, y, width, height);
    }
}
