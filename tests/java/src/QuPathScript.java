import groovy.lang.Binding;
import groovy.lang.GroovyClassLoader;
import groovy.lang.Script;
import java.awt.image.BufferedImage;
import java.io.File;
import java.lang.reflect.InvocationTargetException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import qupath.lib.images.ImageData;
import qupath.lib.images.servers.ImageServer;
import qupath.lib.roi.interfaces.ROI;
import qupath.lib.scripting.QP;

/** Runs a script of QuPath on a stand-in of QuPath, or only its arithmetic. */
final class QuPathScript {
    /** Of the one script of a run. */
    private static Class<?> parsed;

    private QuPathScript() {}

    /** {@code qupath SCRIPT IMAGE REGION ARGUMENT...}; IMAGE is grey, rgb or none. */
    static void run(String[] words) throws Exception {
        QP.imageData = words[2].equals("none") ? null : new ImageData<>(image(words[2].equals("rgb")));
        QP.roi = null;
        if (!words[3].isEmpty()) {
            double[] n = Arrays.stream(words[3].split(" ")).mapToDouble(Double::parseDouble).toArray();
            QP.roi = new ROI(n[0], n[1], n[2], n[3]);
        }
        Binding binding = new Binding();
        binding.setVariable("args", Arrays.copyOfRange(words, 4, words.length));
        Script script = (Script) parse(words[1]).getDeclaredConstructor().newInstance();
        script.setBinding(binding);
        script.run();
    }

    /** {@code blend SCRIPT RAW ITERATIONS COUNT DIAL STEP RESULT}, files of float32. */
    static void blend(String[] words) throws Exception {
        float[] raw = floats(words[2]);
        float[] all = floats(words[3]);
        List<float[]> iterations = new ArrayList<>();
        for (int k = 0; k < Integer.parseInt(words[4]); k++) {
            iterations.add(Arrays.copyOfRange(all, k * raw.length, (k + 1) * raw.length));
        }
        float[] result;
        try {
            result = (float[]) parse(words[1])
                    .getMethod("blend", float[].class, List.class, double.class, double.class)
                    .invoke(null, raw, iterations, Double.parseDouble(words[5]),
                            Double.parseDouble(words[6]));
        } catch (InvocationTargetException thrown) {
            throw (Exception) thrown.getCause();
        }
        ByteBuffer bytes = ByteBuffer.allocate(4 * result.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asFloatBuffer().put(result);
        Files.write(Path.of(words[7]), bytes.array());
    }

    private static Class<?> parse(String script) throws Exception {
        if (parsed == null) {
            ClassLoader parent = QuPathScript.class.getClassLoader();
            parsed = new GroovyClassLoader(parent).parseClass(new File(script));
        }
        return parsed;
    }

    private static float[] floats(String file) throws Exception {
        FloatBuffer buffer = ByteBuffer.wrap(Files.readAllBytes(Path.of(file)))
                .order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
        float[] values = new float[buffer.remaining()];
        buffer.get(values);
        return values;
    }

    private static ImageServer<BufferedImage> image(boolean rgb) {
        return new ImageServer<>("raw", 2, rgb) {
            @Override
            public float value(int channel, int x, int y, int z, int t) {
                return x + 100 * y + 5000 * channel + 10 * z + t;
            }
        };
    }
}
