package qupath.lib.classifiers.pixel;

import java.util.List;

/** Stands in for QuPath's interface: a class for every channel of the model. */
public final class PixelClassifier {
    public final List<?> names;
    public final int channel;

    public PixelClassifier(List<?> names, int channel) {
        this.names = names;
        this.channel = channel;
    }
}
