package qupath.lib.images.servers;

/** Stands in for QuPath's interface: 40 x 30 pixels. */
public abstract class ImageServer<T> {
    private final String path;
    private final int channels;
    private final boolean rgb;

    protected ImageServer(String path, int channels, boolean rgb) {
        this.path = path;
        this.channels = channels;
        this.rgb = rgb;
    }

    public abstract float value(int channel, int x, int y, int z, int t);

    public String getPath() {
        return path;
    }

    public int getWidth() {
        return 40;
    }

    public int getHeight() {
        return 30;
    }

    public int nChannels() {
        return channels;
    }

    public boolean isRGB() {
        return rgb;
    }

    public PixelCalibration getPixelCalibration() {
        return new PixelCalibration();
    }
}
