package qupath.lib.regions;

/** Stands in for QuPath's class. */
public class RegionRequest {
    private final String path;
    private final double downsample;
    private final int[] place;

    private RegionRequest(String path, double downsample, int... place) {
        this.path = path;
        this.downsample = downsample;
        this.place = place;
    }

    public static RegionRequest createInstance(
            String path, double downsample, int x, int y, int width, int height, int z, int t) {
        return new RegionRequest(path, downsample, x, y, width, height, z, t);
    }

    public String getPath() {
        return path;
    }

    public double getDownsample() {
        return downsample;
    }

    public int getX() {
        return place[0];
    }

    public int getY() {
        return place[1];
    }

    public int getWidth() {
        return place[2];
    }

    public int getHeight() {
        return place[3];
    }

    public int getZ() {
        return place[4];
    }

    public int getT() {
        return place[5];
    }
}
