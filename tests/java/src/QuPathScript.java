import groovy.lang.Binding;
import groovy.lang.GroovyClassLoader;
import groovy.lang.Script;
import java.io.File;
import java.lang.reflect.Constructor;
import java.lang.reflect.Executable;
import java.lang.reflect.Field;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import qupath.ext.djl.DjlDnnModelBuilder;
import qupath.opencv.dnn.DnnModels;
import scene.Scene;

/** Runs a script of QuPath on a stand-in of QuPath, or only its arithmetic. */
final class QuPathScript {
    /** Of the one script of a run. */
    private static Class<?> parsed;

    private QuPathScript() {}

    /**
     * {@code qupath SCRIPT EXTENSION IMAGE REGION ARGUMENT...}: EXTENSION is where the builder of
     * the Deep Java Library is: "loader", "window" (registered already) or "none"; IMAGE is grey,
     * rgb or none.
     */
    static void run(String[] words) throws Exception {
        Scene.open(words[3], words[4]);
        Field builders = DnnModels.class.getDeclaredField("BUILDERS");
        builders.setAccessible(true);
        ((Set<?>) builders.get(null)).clear();
        for (String name : List.of("deepcontrast.builder", "ai.djl.offline", "OPT_OUT_TRACKING")) {
            System.clearProperty(name);
        }
        if (words[2].equals("window")) {
            System.setProperty("ai.djl.offline", "true");
            DnnModels.registerBuilder(new DjlDnnModelBuilder());
        }
        Binding binding = new Binding();
        binding.setVariable("args", Arrays.copyOfRange(words, 5, words.length));
        Script script = (Script) parse(words[1]).getDeclaredConstructor().newInstance();
        script.setBinding(binding);
        ClassLoader before = Thread.currentThread().getContextClassLoader();
        boolean found = words[2].equals("loader");
        Thread.currentThread().setContextClassLoader(found ? before : withoutExtensions());
        try {
            script.run();
        } finally {
            Thread.currentThread().setContextClassLoader(before);
        }
    }

    /** Extensions lie in a class loader of their own, which the classes of QuPath do not see. */
    private static ClassLoader withoutExtensions() {
        return new ClassLoader(QuPathScript.class.getClassLoader()) {
            @Override
            protected Class<?> loadClass(String name, boolean resolve)
                    throws ClassNotFoundException {
                if (name.startsWith("qupath.ext.")) {
                    throw new ClassNotFoundException(name);
                }
                return super.loadClass(name, resolve);
            }
        };
    }

    /** {@code signatures RESULT NAME...}: all that stand-ins offer, one a line, types erased. */
    static void describe(String[] words) throws Exception {
        List<String> lines = new ArrayList<>();
        for (String name : Arrays.copyOfRange(words, 2, words.length)) {
            Class<?> type = Class.forName(name);
            for (Field field : type.getFields()) {
                lines.add(name + "\tfield " + field.getName());
            }
            for (Constructor<?> made : type.getConstructors()) {
                lines.add(name + "\tnew " + parameters(made));
            }
            for (Method method : type.getDeclaredMethods()) {
                if (Modifier.isPublic(method.getModifiers()) && !method.isSynthetic()) {
                    String kind = Modifier.isStatic(method.getModifiers()) ? "static " : "";
                    String returned = method.getReturnType().getSimpleName();
                    lines.add(name + "\t" + kind + returned + " " + method.getName()
                            + parameters(method));
                }
            }
        }
        Files.write(Path.of(words[1]), lines);
    }

    private static String parameters(Executable method) {
        List<String> names = new ArrayList<>();
        for (Class<?> type : method.getParameterTypes()) {
            names.add(type.getSimpleName());
        }
        return "(" + String.join(", ", names) + ")";
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
            parsed = new GroovyClassLoader(withoutExtensions()).parseClass(new File(script));
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
}
