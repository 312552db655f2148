package qupath.opencv.ml.pixel;

import java.awt.image.BufferedImage;
import qupath.lib.classifiers.pixel.PixelClassifier;
import qupath.lib.images.ImageData;
import qupath.lib.images.servers.ImageServer;

/**
 * Stands in for QuPath's class: iteration k is {@code raw * (1 + k / 4) + k}, the balanced image
 * {@code 1000 - raw}.
 */
public final class PixelClassifierTools {
    private PixelClassifierTools() {}

    public static ImageServer<BufferedImage> createPixelClassificationServer(
            ImageData<BufferedImage> imageData, PixelClassifier classifier) {
        ImageServer<BufferedImage> raw = imageData.getServer();
        return new ImageServer<>("enhanced", classifier.names.size(), raw.isRGB()) {
            @Override
            public float value(int channel, int x, int y, int z, int t) {
                float value = raw.value(classifier.channel, x, y, z, t);
                if (classifier.names.get(channel).equals("balanced")) {
                    return 1000 - value;
                }
                return value * (1 + (channel + 1) / 4f) + channel + 1;
            }
        };
    }
}
