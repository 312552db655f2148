package scene;

import java.awt.color.ColorSpace;
import java.awt.image.BandedSampleModel;
import java.awt.image.BufferedImage;
import java.awt.image.ComponentColorModel;
import java.awt.image.Raster;
import java.awt.image.WritableRaster;
import qupath.lib.images.ImageData;
import qupath.lib.images.servers.ImageServer;
import qupath.lib.images.servers.PixelCalibration;
import qupath.lib.regions.RegionRequest;
import qupath.lib.roi.interfaces.ROI;

/** What is open in the stand-in of QuPath: an image of 40 x 30 pixels, and a selection. */
public final class Scene {
    public static final int WIDTH = 40;
    public static final int HEIGHT = 30;

    public static ImageData<BufferedImage> imageData;
    public static ROI selected;

    private Scene() {}

    /** Opens an image of two channels, or nothing. */
    public static void open(String kind, String region) {
        imageData = kind.equals("none") ? null : new ImageData<>(new Image(kind.equals("rgb")));
        selected = null;
        if (!region.isEmpty()) {
            String[] n = region.split(" ");
            double[] bounds = new double[4];
            for (int i = 0; i < 4; i++) {
                bounds[i] = Double.parseDouble(n[i]);
            }
            selected = new Rectangle(bounds);
        }
    }

    /** Returns an image with bands of type, all zero. */
    public static BufferedImage blank(int type, int width, int height, int bands) {
        WritableRaster raster =
                Raster.createWritableRaster(
                        new BandedSampleModel(type, width, height, bands), null);
        ColorSpace any =
                new ColorSpace(ColorSpace.TYPE_GRAY, bands) {
                    @Override
                    public float[] toRGB(float[] values) {
                        return new float[3];
                    }

                    @Override
                    public float[] fromRGB(float[] values) {
                        return new float[bands];
                    }

                    @Override
                    public float[] toCIEXYZ(float[] values) {
                        return new float[3];
                    }

                    @Override
                    public float[] fromCIEXYZ(float[] values) {
                        return new float[bands];
                    }
                };
        ComponentColorModel colours =
                new ComponentColorModel(any, false, false, BufferedImage.OPAQUE, type);
        return new BufferedImage(colours, raster, false, null);
    }

    /** The value of a pixel: irregular, so that no neighbour is like another. */
    private static int value(int channel, int x, int y, int z, int t) {
        return (x * 37 + y * 101 + x * y * 13) % 997 + 5000 * channel + 10 * z + t;
    }

    private static final class Image implements ImageServer<BufferedImage> {
        private final boolean rgb;

        Image(boolean rgb) {
            this.rgb = rgb;
        }

        @Override
        public String getPath() {
            return "slide.svs";
        }

        @Override
        public int getWidth() {
            return WIDTH;
        }

        @Override
        public int getHeight() {
            return HEIGHT;
        }

        @Override
        public int nChannels() {
            return 2;
        }

        @Override
        public boolean isRGB() {
            return rgb;
        }

        @Override
        public PixelCalibration getPixelCalibration() {
            return new PixelCalibration.Builder().pixelSizeMicrons(0.4, 0.4).build();
        }

        @Override
        public BufferedImage readRegion(RegionRequest request) {
            if (!request.getPath().equals(getPath()) || request.getDownsample() != 1) {
                throw new IllegalArgumentException("this image at full resolution is expected");
            }
            int x = request.getX();
            int y = request.getY();
            if (x < 0
                    || y < 0
                    || x + request.getWidth() > WIDTH
                    || y + request.getHeight() > HEIGHT) {
                throw new IllegalArgumentException("a region inside the image is expected");
            }
            BufferedImage image =
                    blank(
                            java.awt.image.DataBuffer.TYPE_USHORT,
                            request.getWidth(),
                            request.getHeight(),
                            2);
            for (int c = 0; c < 2; c++) {
                for (int v = 0; v < request.getHeight(); v++) {
                    for (int u = 0; u < request.getWidth(); u++) {
                        int made = value(c, x + u, y + v, request.getZ(), request.getT());
                        image.getRaster().setSample(u, v, c, made);
                    }
                }
            }
            return image;
        }
    }

    private static final class Rectangle implements ROI {
        private final double[] bounds;

        Rectangle(double[] bounds) {
            this.bounds = bounds;
        }

        @Override
        public double getBoundsX() {
            return bounds[0];
        }

        @Override
        public double getBoundsY() {
            return bounds[1];
        }

        @Override
        public double getBoundsWidth() {
            return bounds[2];
        }

        @Override
        public double getBoundsHeight() {
            return bounds[3];
        }

        @Override
        public int getZ() {
            return 2;
        }

        @Override
        public int getT() {
            return 1;
        }
    }
}
