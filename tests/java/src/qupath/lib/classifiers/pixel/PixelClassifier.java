package qupath.lib.classifiers.pixel;

/** Stands in for QuPath's interface: iteration k is {@code raw * (1 + k / 4) + k}. */
public final class PixelClassifier {
    public final int iterations;
    public final int channel;

    public PixelClassifier(int iterations, int channel) {
        this.iterations = iterations;
        this.channel = channel;
    }
}
