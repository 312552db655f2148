import ij.IJ;
import ij.ImagePlus;
import ij.WindowManager;
import ij.macro.Interpreter;
import ij.measure.Calibration;
import java.awt.HeadlessException;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * Runs the jobs of a file, one a line, its words parted by tabs, without a screen.
 *
 * <p>{@code open IMAGE RESULT}: what ImageJ reads, as RESULT.txt and RESULT.raw. {@code macro FILE
 * ARGUMENTS}: an ImageJ macro. {@code bare FILE ARGUMENTS}: the same without deepImageJ. {@code
 * current IMAGE FILE ARGUMENTS}: the same on an open image. {@code qupath SCRIPT EXTENSION IMAGE
 * REGION ARGUMENT...}, {@code blend SCRIPT ...}: a Groovy script. {@code signatures RESULT
 * NAME...}: what classes offer. What job number n says goes to n.txt in the folder of the jobs,
 * with "ended" or "stopped" as its last line.
 */
public final class Jobs {
    private Jobs() {}

    public static void main(String[] args) throws Exception {
        HeadlessImageJ.start();
        Path jobs = Path.of(args[0]);
        PrintStream out = System.out;
        int number = 0;
        for (String line : Files.readAllLines(jobs)) {
            ByteArrayOutputStream said = new ByteArrayOutputStream();
            System.setOut(new PrintStream(said, true, StandardCharsets.UTF_8));
            System.err.println("job " + number);
            String end = "ended";
            try {
                run(line.split("\t", -1));
            } catch (Throwable stopped) {
                end = "stopped";
                if (!"Macro canceled".equals(stopped.getMessage())) {
                    stopped.printStackTrace(System.out);
                }
            }
            System.out.println(end);
            System.setOut(out);
            Path told = jobs.resolveSibling(number++ + ".txt");
            Files.write(told, said.toByteArray());
        }
        System.exit(0);
    }

    private static void run(String[] words) throws Exception {
        switch (words[0]) {
            case "open":
                describe(words[1], words[2]);
                break;
            case "macro":
                macro(Files.readString(Path.of(words[1])), words[2]);
                break;
            case "bare":
                HeadlessImageJ.install(false);
                try {
                    macro(Files.readString(Path.of(words[1])), words[2]);
                } finally {
                    HeadlessImageJ.install(true);
                }
                break;
            case "current":
                // Returns to the image afterwards: it must be as it was.
                macro(
                        "setBatchMode(true); open('" + words[1] + "'); id = getImageID();"
                                + " makeRectangle(1, 2, 3, 4); setVoxelSize(3, 3, 3, 'mm');"
                                + " runMacro('" + words[2] + "', '" + words[3] + "');"
                                + " selectImage(id); getVoxelSize(w, h, d, unit);"
                                + " print(getTitle(), bitDepth(), selectionType(), w, unit);",
                        "");
                break;
            case "qupath":
                QuPathScript.run(words);
                break;
            case "signatures":
                QuPathScript.describe(words);
                break;
            case "blend":
                QuPathScript.blend(words);
                break;
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    private static void macro(String text, String argument) {
        Interpreter.batchMode = true;
        Interpreter interpreter = new Interpreter();
        try {
            interpreter.run(text, argument);
        } catch (HeadlessException error) {
            // Where ImageJ wanted to show a message about the macro in a window.
            throw new IllegalStateException(
                    interpreter.getErrorMessage() + ", line " + interpreter.getLineNumber());
        } finally {
            for (int id : Interpreter.getBatchModeImageIDs()) {
                Interpreter.removeBatchModeImage(Interpreter.getBatchModeImage(id));
            }
            Interpreter.batchMode = false;
            WindowManager.setTempCurrentImage(null);
        }
    }

    private static void describe(String image, String result) throws IOException {
        ImagePlus imp = IJ.openImage(image);
        Calibration cal = imp.getCalibration();
        List<String> lines = new ArrayList<>();
        lines.add("shape=" + imp.getNFrames() + " " + imp.getNSlices() + " " + imp.getNChannels()
                + " " + imp.getHeight() + " " + imp.getWidth());
        lines.add("bits=" + imp.getBitDepth());
        lines.add("pixel=" + cal.pixelWidth + " " + cal.pixelHeight + " " + cal.pixelDepth);
        lines.add("unit=" + cal.getUnit());
        lines.add("origin=" + cal.xOrigin + " " + cal.yOrigin);
        lines.add("interval=" + cal.frameInterval + " " + cal.getTimeUnit());
        lines.add("title=" + imp.getTitle());
        lines.add("info=" + String.valueOf(imp.getProperty("Info")).replace('\n', '|'));
        int size = imp.getStackSize();
        ByteBuffer pixels = ByteBuffer.allocate(4 * size * imp.getWidth() * imp.getHeight());
        pixels.order(ByteOrder.LITTLE_ENDIAN);
        for (int i = 1; i <= size; i++) {
            // The stack of a single plane would give title and info in place of the label.
            String label =
                    size == 1 ? imp.getProp("Slice_Label") : imp.getStack().getSliceLabel(i);
            lines.add("label=" + (label == null ? "" : label));
            float[] plane = (float[]) imp.getStack().getProcessor(i).convertToFloat().getPixels();
            for (float value : plane) {
                pixels.putFloat(value);
            }
        }
        for (int c = 1; c <= imp.getNChannels(); c++) {
            imp.setPosition(c, (imp.getNSlices() + 1) / 2, 1);
            lines.add("shown=" + imp.getDisplayRangeMin() + " " + imp.getDisplayRangeMax());
        }
        Files.write(Path.of(result + ".txt"), lines);
        Files.write(Path.of(result + ".raw"), pixels.array());
    }
}
