package scene;

import java.awt.image.BufferedImage;
import java.awt.image.DataBuffer;
import qupath.opencv.dnn.DnnModel;

/**
 * A network that sees its neighbours: iteration k is {@code mean * (1 + k / 4) + k}, where mean is
 * that of 7 x 7 pixels. It mirrors its input, edge pixel included, as an exported graph does.
 */
public final class Network implements DnnModel {
    private static final int RADIUS = 3;

    private final int iterations;

    public Network(int iterations) {
        this.iterations = iterations;
    }

    /** Returns an image with one band per iteration. */
    public BufferedImage run(float[] raw, int width, int height) {
        BufferedImage made = Scene.blank(DataBuffer.TYPE_FLOAT, width, height, iterations);
        for (int y = 0; y < height; y++) {
            for (int x = 0; x < width; x++) {
                double sum = 0;
                for (int v = y - RADIUS; v <= y + RADIUS; v++) {
                    for (int u = x - RADIUS; u <= x + RADIUS; u++) {
                        sum += raw[mirrored(v, height) * width + mirrored(u, width)];
                    }
                }
                double mean = sum / ((2 * RADIUS + 1) * (2 * RADIUS + 1));
                for (int k = 1; k <= iterations; k++) {
                    made.getRaster().setSample(x, y, k - 1, (float) (mean * (1 + k / 4d) + k));
                }
            }
        }
        return made;
    }

    private static int mirrored(int at, int size) {
        int folded = Math.floorMod(at, 2 * size);
        return folded < size ? folded : 2 * size - 1 - folded;
    }
}
